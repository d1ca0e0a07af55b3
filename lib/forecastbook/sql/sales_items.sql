-- The items of the warehouse's own, each once.
SELECT item_id, title, source_key, attributes_json
FROM DimItem
WHERE item_id IS NOT NULL AND NOT COALESCE(from_files, FALSE)
QUALIFY ROW_NUMBER() OVER (PARTITION BY item_id ORDER BY title DESC, source_key DESC, attributes_json DESC) = 1
ORDER BY item_id
