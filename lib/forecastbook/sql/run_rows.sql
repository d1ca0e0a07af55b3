-- How many forecasts of one run are stored, of prices or of sales.
SELECT
  (SELECT COUNT(*) FROM FactPriceForecast AS p WHERE p.run_id = @run_id AND p.as_of BETWEEN @first AND @last)
  + (SELECT COUNT(*) FROM FactSalesForecast AS s WHERE s.run_id = @run_id AND s.as_of BETWEEN @first AND @last) AS n
