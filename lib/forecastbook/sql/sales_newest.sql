-- The newest period that each item has sales of.
SELECT item_id, MAX(period) AS newest FROM FactSales GROUP BY item_id
