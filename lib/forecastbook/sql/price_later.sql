-- Facts of the days after a run's as-of date: how many there are, how many of them can be used, and the newest day they name.
SELECT
  COUNT(*) AS facts,
  COUNT(
    CASE
      WHEN f.is_available AND CAST(f.current_price AS FLOAT64) > 0 AND CAST(f.current_price AS FLOAT64) < 1e300
        AND v.variant_id IS NOT NULL AND d.date_id IS NOT NULL THEN 1
    END
  ) AS usable,
  MAX(f.date_id) AS newest
FROM FactProductPrice AS f
LEFT JOIN (SELECT DISTINCT variant_id FROM DimVariant) AS v ON v.variant_id = f.variant_id
LEFT JOIN (SELECT DISTINCT date_id FROM DimDate WHERE full_date IS NOT NULL) AS d ON d.date_id = f.date_id
WHERE f.date_id BETWEEN @from_date_id AND @to_date_id
