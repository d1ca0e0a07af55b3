-- One job's own set of price forecasts at an as-of date, whatever other jobs forecast.
WITH newest AS (
  SELECT job, model_id, as_of, run_id, published_at
  FROM PublishLedger
  WHERE job = @job AND as_of = @as_of
  QUALIFY ROW_NUMBER() OVER (PARTITION BY job ORDER BY published_at DESC, run_id DESC) = 1
)
SELECT
  n.job, f.variant_id, f.forecast_date, f.horizon, f.predicted_price, f.confidence_lower, f.confidence_upper, f.p_change,
  f.as_of, f.model_id, f.run_id, f.forecast_id, f.created_at, n.published_at
FROM FactPriceForecast AS f
JOIN newest AS n ON f.run_id = n.run_id AND f.model_id = n.model_id AND f.as_of = n.as_of
WHERE f.as_of = @as_of
ORDER BY f.variant_id, f.forecast_date
