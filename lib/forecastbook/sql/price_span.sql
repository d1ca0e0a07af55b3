-- First and last day with a price that can be used, up to a date. The comparisons also keep NaN and infinity out, whatever the
-- dialect orders them as.
SELECT MIN(d.full_date) AS first_date, MAX(d.full_date) AS last_date
FROM FactProductPrice AS f
JOIN DimDate AS d ON f.date_id = d.date_id
WHERE f.date_id BETWEEN @from_date_id AND @to_date_id
  AND f.is_available AND f.current_price > 0 AND f.current_price < 1e300
  AND EXISTS (SELECT 1 FROM DimVariant AS v WHERE v.variant_id = f.variant_id)
