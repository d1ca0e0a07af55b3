SELECT * FROM CurrentSalesForecast ORDER BY item_id, forecast_date
