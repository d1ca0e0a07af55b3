-- Ledger entries whose rows are not all there.
WITH stored AS (
  SELECT run_id, model_id, as_of, COUNT(*) AS n FROM FactPriceForecast WHERE as_of >= DATE '1900-01-01' GROUP BY run_id, model_id, as_of
  UNION ALL
  SELECT run_id, model_id, as_of, COUNT(*) AS n FROM FactSalesForecast WHERE as_of >= DATE '1900-01-01' GROUP BY run_id, model_id, as_of
), counted AS (
  SELECT run_id, model_id, as_of, SUM(n) AS n FROM stored GROUP BY run_id, model_id, as_of
)
SELECT COUNT(*) AS faults
FROM PublishLedger AS l
LEFT JOIN counted AS c ON l.run_id = c.run_id AND l.model_id = c.model_id AND l.as_of = c.as_of
WHERE COALESCE(c.n, 0) <> l.`rows`
