-- Facts whose day lies outside all possible days: before 1900 or after today.
SELECT price_fact_id, variant_id, date_id
FROM FactProductPrice
WHERE date_id < 19000101 OR date_id > @today_id
ORDER BY price_fact_id, variant_id, date_id
LIMIT 1000
