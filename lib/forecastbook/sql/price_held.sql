-- The bounds let a partitioned table demand a filter.
-- Is there anything to forecast from? Facts, and variants that a shop (not a file) brought.
SELECT
  (SELECT COUNT(*) FROM FactProductPrice WHERE date_id BETWEEN 0 AND 99999999) AS facts,
  (SELECT COUNT(*) FROM DimVariant WHERE shop_product_id <> 0) AS own
