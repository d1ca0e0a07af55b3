-- A cheap summary of a window of facts that changes when any of them does and not with their order: whole numbers only, because
-- sums of floats depend on the order of addition. Prices count in 1/10000; what is no ordinary number counts as -1.
-- A fact counts in known_variants where DimVariant has its variant, in known_days where DimDate has its day: each looked up once.
WITH facts AS (
  SELECT
    price_fact_id, variant_id, date_id, is_available,
    CASE WHEN current_price > -1e12 AND current_price < 1e12 THEN CAST(ROUND(current_price * 10000) AS INT64) ELSE -1 END AS price,
    CASE WHEN original_price > -1e12 AND original_price < 1e12 THEN CAST(ROUND(original_price * 10000) AS INT64) ELSE -1 END AS list_price
  FROM FactProductPrice
  WHERE date_id BETWEEN @from_date_id AND @to_date_id
),
variants AS (
  SELECT DISTINCT variant_id FROM DimVariant
),
days AS (
  SELECT date_id, MIN(full_date) AS full_date
  FROM DimDate
  WHERE date_id BETWEEN @from_date_id AND @to_date_id
  GROUP BY date_id
)
SELECT
  COUNT(*) AS facts,
  MAX(price_fact_id) AS newest,
  SUM(MOD(price_fact_id, 1000003)) AS ids,
  SUM(MOD(f.variant_id, 1000003)) AS variants,
  SUM(MOD(price, 1000003) * MOD(MOD(f.variant_id, 9973) * 31 + f.date_id + MOD(price_fact_id, 7919), 9967)) AS prices,
  SUM(MOD(list_price, 1000003) * MOD(MOD(f.variant_id, 9973) * 37 + f.date_id + MOD(price_fact_id, 7919), 9967)) AS list_prices,
  SUM(CASE WHEN is_available THEN MOD(MOD(f.variant_id, 9973) * 41 + f.date_id + MOD(price_fact_id, 7919), 9967) ELSE 0 END) AS available,
  SUM(CASE WHEN v.variant_id IS NULL THEN 0 ELSE 1 + MOD(price_fact_id, 1000003) END) AS known_variants,
  SUM(
    CASE
      WHEN EXTRACT(YEAR FROM d.full_date) * 10000 + EXTRACT(MONTH FROM d.full_date) * 100 + EXTRACT(DAY FROM d.full_date) = f.date_id
        THEN 1 + MOD(price_fact_id, 1000003)
      ELSE 0
    END
  ) AS known_days
FROM facts AS f
LEFT JOIN variants AS v ON v.variant_id = f.variant_id
LEFT JOIN days AS d ON d.date_id = f.date_id
