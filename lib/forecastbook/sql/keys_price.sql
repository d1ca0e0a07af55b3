-- What some keys of DimVariant stand for.
SELECT variant_id AS id, source_key, variant_title AS title
FROM DimVariant
WHERE variant_id IN UNNEST(@ids)
ORDER BY variant_id
