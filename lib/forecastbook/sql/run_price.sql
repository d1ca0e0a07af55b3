-- The price forecasts of one run, in the ledger or not.
SELECT
  forecast_id, variant_id, model_id, forecast_date, predicted_price, confidence_upper, confidence_lower, created_at, as_of,
  horizon, p_change, run_id
FROM FactPriceForecast
WHERE run_id = @run_id AND as_of BETWEEN @first AND @last
ORDER BY variant_id, forecast_date
