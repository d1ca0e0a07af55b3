-- The sales of a window of periods, as they are stored, and those without a period; not those that came from files, which are
-- another job's.
SELECT
  f.item_id, f.period, CAST(f.units AS FLOAT64) AS units, CAST(f.revenue AS FLOAT64) AS revenue,
  CAST(f.list_price AS FLOAT64) AS list_price, CAST(f.promotion AS FLOAT64) AS promotion
FROM FactSales AS f
WHERE (f.period BETWEEN @first AND @last OR f.period IS NULL)
  AND NOT EXISTS (SELECT 1 FROM DimItem AS i WHERE i.item_id = f.item_id AND i.from_files)
ORDER BY f.item_id, f.period
