-- Current forecasts of a run that the ledger does not name.
SELECT
  (SELECT COUNT(*) FROM CurrentPriceForecast WHERE run_id NOT IN (SELECT run_id FROM PublishLedger))
  + (SELECT COUNT(*) FROM CurrentSalesForecast WHERE run_id NOT IN (SELECT run_id FROM PublishLedger)) AS faults
