-- Facts whose day is missing or lies outside all possible days, before 1900 or after today: the first of them, and how many there are.
SELECT price_fact_id, variant_id, date_id, COUNT(*) OVER () AS strays
FROM FactProductPrice
WHERE date_id < 19000101 OR date_id > @today_id OR date_id IS NULL
ORDER BY price_fact_id, variant_id, date_id
LIMIT 1000
