-- Is there anything to forecast from? Facts, and variants that a shop (not a file) brought.
SELECT
  (SELECT COUNT(*) FROM FactProductPrice) AS facts,
  (SELECT COUNT(*) FROM DimVariant WHERE shop_product_id <> 0) AS own
