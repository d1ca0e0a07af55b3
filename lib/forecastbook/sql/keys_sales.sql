-- What some keys of DimItem stand for.
SELECT item_id AS id, source_key, title
FROM DimItem
WHERE item_id IN UNNEST(@ids)
ORDER BY item_id
