SELECT * FROM CurrentPriceForecast ORDER BY variant_id, forecast_date
