-- name: attributes
-- description: What each attribute costs and holds: bytes, spans, types, distinct values; and the column it stands in, if any
--
-- One row an attribute and place (span or resource). Bytes are those of name and value as text, before compression. What deserves
-- a column has many spans and few values, or is often filtered by: name it in the configuration's promote. Of a promoted attribute
-- type_conflicts counts the values that its column does not hold, because they are of another type.
SELECT
    name,
    place,
    max(promoted.column_name) AS promoted_as,
    string_agg(DISTINCT attribute_values.type, ', ' ORDER BY attribute_values.type) AS types,
    count(*) AS spans,
    sum(octet_length(name) + coalesce(octet_length(value), 0)) AS bytes,
    approx_distinct(value) AS distinct_values,
    CASE
        WHEN max(promoted.column_name) IS NOT NULL THEN count(*) FILTER (
            WHERE attribute_values.type NOT IN (promoted.type, 'empty')
                AND NOT (
                    promoted.type = 'double' AND attribute_values.type = 'int'
                    AND TRY_CAST(TRY_CAST(value AS DOUBLE) AS DECIMAL(38, 0)) = TRY_CAST(value AS DECIMAL(38, 0))
                )
        )
    END AS type_conflicts,
    left(min(value), 80) AS example
FROM attribute_values
LEFT JOIN promoted_columns AS promoted ON promoted.attribute = name
GROUP BY name, place
