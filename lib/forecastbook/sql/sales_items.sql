SELECT item_id, title, source_key, attributes_json FROM DimItem WHERE NOT COALESCE(from_files, FALSE) ORDER BY item_id
