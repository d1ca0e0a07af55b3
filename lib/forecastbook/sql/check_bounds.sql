-- Current forecasts that are negative, missing or out of order.
SELECT
  (SELECT COUNT(*) FROM CurrentPriceForecast
   WHERE NOT COALESCE(0 <= confidence_lower AND confidence_lower <= predicted_price AND predicted_price <= confidence_upper
                      AND confidence_upper < 1e300, FALSE))
  + (SELECT COUNT(*) FROM CurrentSalesForecast
     WHERE NOT COALESCE(0 <= q05 AND q05 <= q25 AND q25 <= q50 AND q50 <= q75 AND q75 <= q95 AND q95 < 1e300, FALSE)) AS faults
