-- First and last period with a number that can be used, up to a date. The comparisons also keep NaN and infinity out.
SELECT MIN(f.period) AS first_date, MAX(f.period) AS last_date
FROM FactSales AS f
JOIN DimItem AS i ON f.item_id = i.item_id
WHERE f.period <= @last AND CAST(f.units AS FLOAT64) >= 0 AND CAST(f.units AS FLOAT64) < 1e300
  AND NOT COALESCE(i.from_files, FALSE)
