-- The newest period that each item has sales of.
SELECT item_id, MAX(period) AS newest FROM FactSales WHERE period >= DATE '1900-01-01' GROUP BY item_id
