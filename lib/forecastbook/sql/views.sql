-- What readers see: for each job the ledger's newest as-of date (the latest publication on ties); where two jobs forecast one
-- item, the newest of them. Exactly one row an item and forecast date. Rows of runs that the ledger does not name stay invisible.
-- The constant bound on as_of lets a partitioned table demand a filter.

CREATE OR REPLACE VIEW CurrentPriceForecast AS
WITH newest AS (
  SELECT job, model_id, as_of, run_id, published_at
  FROM PublishLedger
  QUALIFY ROW_NUMBER() OVER (PARTITION BY job ORDER BY as_of DESC, published_at DESC, run_id DESC) = 1
)
SELECT
  n.job, f.variant_id, f.forecast_date, f.horizon, f.predicted_price, f.confidence_lower, f.confidence_upper, f.p_change,
  f.as_of, f.model_id, f.run_id, f.forecast_id, f.created_at, n.published_at
FROM FactPriceForecast AS f
JOIN newest AS n ON f.run_id = n.run_id AND f.model_id = n.model_id AND f.as_of = n.as_of
WHERE f.as_of >= DATE '1900-01-01'
QUALIFY RANK() OVER (PARTITION BY f.variant_id ORDER BY n.as_of DESC, n.published_at DESC, n.run_id DESC) = 1;

CREATE OR REPLACE VIEW CurrentSalesForecast AS
WITH newest AS (
  SELECT job, model_id, as_of, run_id, published_at
  FROM PublishLedger
  QUALIFY ROW_NUMBER() OVER (PARTITION BY job ORDER BY as_of DESC, published_at DESC, run_id DESC) = 1
)
SELECT
  n.job, f.item_id, f.forecast_date, f.horizon, f.q05, f.q25, f.q50, f.q75, f.q95, f.mean,
  f.as_of, f.model_id, f.run_id, f.forecast_id, f.created_at, n.published_at
FROM FactSalesForecast AS f
JOIN newest AS n ON f.run_id = n.run_id AND f.model_id = n.model_id AND f.as_of = n.as_of
WHERE f.as_of >= DATE '1900-01-01'
QUALIFY RANK() OVER (PARTITION BY f.item_id ORDER BY n.as_of DESC, n.published_at DESC, n.run_id DESC) = 1;
