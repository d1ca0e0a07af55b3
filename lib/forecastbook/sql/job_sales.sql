-- One job's own set of sales forecasts at an as-of date, whatever other jobs forecast.
WITH newest AS (
  SELECT job, model_id, as_of, run_id, published_at
  FROM PublishLedger
  WHERE job = @job AND as_of = @as_of
  QUALIFY ROW_NUMBER() OVER (PARTITION BY job ORDER BY published_at DESC, run_id DESC) = 1
)
SELECT
  n.job, f.item_id, f.forecast_date, f.horizon, f.q05, f.q25, f.q50, f.q75, f.q95, f.mean,
  f.as_of, f.model_id, f.run_id, f.forecast_id, f.created_at, n.published_at
FROM FactSalesForecast AS f
JOIN newest AS n ON f.run_id = n.run_id AND f.model_id = n.model_id AND f.as_of = n.as_of
WHERE f.as_of = @as_of
ORDER BY f.item_id, f.forecast_date
