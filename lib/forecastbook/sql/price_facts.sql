-- The facts of a window of days, with all their duplicates. full_date is null for an orphan, so that the reader can name
-- them instead of losing them in a join. Titles come from price_variants: once a variant, not once a fact.
SELECT
  f.price_fact_id, f.variant_id, f.date_id, f.current_price, f.original_price, f.is_available, d.full_date
FROM FactProductPrice AS f
LEFT JOIN (SELECT date_id, MIN(full_date) AS full_date FROM DimDate GROUP BY date_id) AS d ON f.date_id = d.date_id
WHERE f.date_id BETWEEN @from_date_id AND @to_date_id
