-- The variants that DimVariant knows, each once.
SELECT variant_id, MAX(variant_title) AS variant_title
FROM DimVariant
WHERE variant_id IS NOT NULL
GROUP BY variant_id
ORDER BY variant_id
