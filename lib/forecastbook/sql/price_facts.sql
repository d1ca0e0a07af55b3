-- Prices may be stored as decimals: the database rounds them to the nearest float, Arrow would not.
-- The facts of a window of days, with all their duplicates and orphans, as they are stored: what a variant or a day is comes from
-- price_variants and price_days, once each and not once a fact.
SELECT
  price_fact_id, variant_id, date_id, CAST(current_price AS FLOAT64) AS current_price, CAST(original_price AS FLOAT64) AS original_price,
  is_available
FROM FactProductPrice
WHERE date_id BETWEEN @from_date_id AND @to_date_id
