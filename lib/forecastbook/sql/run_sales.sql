-- The sales forecasts of one run, in the ledger or not.
SELECT
  forecast_id, item_id, model_id, forecast_date, horizon, q05, q25, q50, q75, q95, mean, as_of, created_at, run_id
FROM FactSalesForecast
WHERE run_id = @run_id AND as_of BETWEEN @first AND @last
ORDER BY item_id, forecast_date
