SELECT model_id FROM DimModel WHERE model_id = @model_id
