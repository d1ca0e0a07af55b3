-- What a job has published for the as-of dates from @since up to @before, one set a date, to be scored when the actuals are in.
WITH sets AS (
  SELECT job, model_id, as_of, run_id
  FROM PublishLedger
  WHERE job = @job AND as_of >= @since AND as_of < @before
  QUALIFY ROW_NUMBER() OVER (PARTITION BY job, as_of ORDER BY published_at DESC, run_id DESC) = 1
)
SELECT
  f.variant_id AS id, f.forecast_date, f.horizon, f.as_of, f.predicted_price AS predicted, f.confidence_lower AS lower,
  f.confidence_upper AS upper, f.p_change, f.run_id, f.model_id
FROM FactPriceForecast AS f
JOIN sets AS s ON f.run_id = s.run_id AND f.model_id = s.model_id AND f.as_of = s.as_of
WHERE f.as_of >= @since AND f.as_of < @before
UNION ALL
SELECT
  f.item_id AS id, f.forecast_date, f.horizon, f.as_of, f.q50 AS predicted, f.q05 AS lower, f.q95 AS upper,
  CAST(NULL AS FLOAT64) AS p_change, f.run_id, f.model_id
FROM FactSalesForecast AS f
JOIN sets AS s ON f.run_id = s.run_id AND f.model_id = s.model_id AND f.as_of = s.as_of
WHERE f.as_of >= @since AND f.as_of < @before
ORDER BY as_of, id, forecast_date
