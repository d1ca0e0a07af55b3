-- Items whose current set is not one row for each of 1 .. H.
WITH sets AS (
  SELECT run_id, MAX(horizon) AS h FROM CurrentPriceForecast GROUP BY run_id
  UNION ALL
  SELECT run_id, MAX(horizon) AS h FROM CurrentSalesForecast GROUP BY run_id
), items AS (
  SELECT run_id, variant_id AS id, COUNT(*) AS n, COUNT(DISTINCT horizon) AS horizons, COUNT(DISTINCT forecast_date) AS dates
  FROM CurrentPriceForecast GROUP BY run_id, variant_id
  UNION ALL
  SELECT run_id, item_id AS id, COUNT(*) AS n, COUNT(DISTINCT horizon) AS horizons, COUNT(DISTINCT forecast_date) AS dates
  FROM CurrentSalesForecast GROUP BY run_id, item_id
)
SELECT COUNT(*) AS faults
FROM items AS i
JOIN sets AS s ON i.run_id = s.run_id
WHERE i.n <> s.h OR i.horizons <> s.h OR i.dates <> s.h
