-- First and last day with a price that can be used, up to a date. The comparisons also keep NaN and infinity out, whatever the
-- dialect orders them as.
SELECT MIN(d.full_date) AS first_date, MAX(d.full_date) AS last_date
FROM FactProductPrice AS f
JOIN DimDate AS d ON f.date_id = d.date_id
WHERE f.date_id BETWEEN @from_date_id AND @to_date_id
  AND f.is_available AND CAST(f.current_price AS FLOAT64) > 0 AND CAST(f.current_price AS FLOAT64) < 1e300
  AND EXISTS (SELECT 1 FROM DimVariant AS v WHERE v.variant_id = f.variant_id)
