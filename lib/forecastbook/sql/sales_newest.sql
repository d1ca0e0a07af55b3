-- Every item, the job whose files brought it last, and the newest period that it has sales of.
SELECT i.item_id, i.job, s.newest
FROM DimItem AS i
LEFT JOIN (
  SELECT item_id, MAX(period) AS newest FROM FactSales WHERE period >= DATE '1900-01-01' GROUP BY item_id
) AS s ON s.item_id = i.item_id
ORDER BY i.item_id
