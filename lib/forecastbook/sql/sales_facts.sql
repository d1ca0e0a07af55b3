-- The sales of a window of periods, as they are stored; not those that came from files, which are another job's.
SELECT
  f.item_id, f.period, CAST(f.units AS FLOAT64) AS units, CAST(f.revenue AS FLOAT64) AS revenue,
  CAST(f.list_price AS FLOAT64) AS list_price, CAST(f.promotion AS FLOAT64) AS promotion
FROM FactSales AS f
LEFT JOIN DimItem AS i ON f.item_id = i.item_id
WHERE f.period BETWEEN @first AND @last AND NOT COALESCE(i.from_files, FALSE)
ORDER BY f.item_id, f.period
