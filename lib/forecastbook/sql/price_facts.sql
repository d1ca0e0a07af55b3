-- The facts of a window of days, with all their duplicates and orphans, as they are stored: what a variant or a day is comes from
-- price_variants and price_days, once each and not once a fact.
SELECT price_fact_id, variant_id, date_id, current_price, original_price, is_available
FROM FactProductPrice
WHERE date_id BETWEEN @from_date_id AND @to_date_id
