-- Is there anything to forecast from? Facts and items that did not come from files.
SELECT
  (SELECT COUNT(*) FROM FactSales AS f LEFT JOIN DimItem AS i ON f.item_id = i.item_id
   WHERE f.period >= DATE '1900-01-01' AND NOT COALESCE(i.from_files, FALSE)) AS facts,
  (SELECT COUNT(*) FROM DimItem WHERE NOT COALESCE(from_files, FALSE)) AS own
