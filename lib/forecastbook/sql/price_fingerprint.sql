-- A cheap summary of a window of facts that changes when any of them does and not with their order: whole numbers only, because
-- sums of floats depend on the order of addition. Prices count in 1/10000; what is no ordinary number counts as -1.
WITH facts AS (
  SELECT
    price_fact_id, variant_id, date_id, is_available,
    CASE WHEN current_price > -1e12 AND current_price < 1e12 THEN CAST(ROUND(current_price * 10000) AS INT64) ELSE -1 END AS price,
    CASE WHEN original_price > -1e12 AND original_price < 1e12 THEN CAST(ROUND(original_price * 10000) AS INT64) ELSE -1 END AS list_price
  FROM FactProductPrice
  WHERE date_id BETWEEN @from_date_id AND @to_date_id
)
SELECT
  COUNT(*) AS facts,
  MAX(price_fact_id) AS newest,
  SUM(MOD(price_fact_id, 1000003)) AS ids,
  SUM(MOD(variant_id, 1000003)) AS variants,
  SUM(MOD(price, 1000003) * MOD(MOD(variant_id, 9973) * 31 + date_id + MOD(price_fact_id, 7919), 9967)) AS prices,
  SUM(MOD(list_price, 1000003) * MOD(MOD(variant_id, 9973) * 37 + date_id + MOD(price_fact_id, 7919), 9967)) AS list_prices,
  SUM(CASE WHEN is_available THEN MOD(MOD(variant_id, 9973) * 41 + date_id + MOD(price_fact_id, 7919), 9967) ELSE 0 END) AS available
FROM facts
