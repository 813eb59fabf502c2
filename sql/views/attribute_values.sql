-- name: attribute_values
-- description: Every attribute of every span and its resource, one a row, with its type and its value as text
--
-- What stands in a column unchanged, such as gen_ai.request.model, is not repeated among the attributes, and so is not here;
-- nor are prompts and answers, which messages has. What a user has promoted is in both places. Narrow it down by start_time:
-- files are pruned by it.
SELECT
    date,
    start_time,
    service_name,
    trace_id,
    span_id,
    place,
    entry['name'] AS name,
    entry['type'] AS type,
    entry['value'] AS value
FROM (
    SELECT date, start_time, service_name, trace_id, span_id, 'span' AS place,
        unnest(attribute_entries(attributes, attribute_types)) AS entry
    FROM spans
    UNION ALL
    SELECT date, start_time, service_name, trace_id, span_id, 'resource' AS place,
        unnest(attribute_entries(resource_attributes, resource_attribute_types)) AS entry
    FROM spans
)
