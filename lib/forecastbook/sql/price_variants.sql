-- The variants that have a fact in a window of days, each once; variant_title is null for one that DimVariant does not know.
SELECT f.variant_id, MAX(v.variant_title) AS variant_title, COUNT(v.variant_id) > 0 AS known
FROM (SELECT DISTINCT variant_id FROM FactProductPrice WHERE date_id BETWEEN @from_date_id AND @to_date_id) AS f
LEFT JOIN DimVariant AS v ON f.variant_id = v.variant_id
GROUP BY f.variant_id
ORDER BY f.variant_id
