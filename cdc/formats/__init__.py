"""Change batches as Kafka records in Debezium's formats, and back. Bytes only: no broker here.

records            the way in: a batch to keys and values (Avro, JSON), Avro records to a batch
json_envelope      the way in for JSON records
envelope           a change batch as the columns of Debezium's envelope
envelope_read      such columns as a change batch
sequence           our position in `source.sequence`
debezium_schema    which Connect type each column has; Debezium's settings
connect_schema     Connect's schemas: as Avro, as Connect's own JSON
connect_values     values of our columns as Connect's, and back
unscaled           decimals as Connect's bytes; intervals: ISO 8601
avro_schema        Avro schemas compiled; avro_read, avro_found: bytes to columns
avro_write         columns to bytes; avro_few: a handful of rows, both ways
varint             Avro's integers
json_read          members to columns; json_template: records that are alike
json_write         columns to texts; json_few: a handful of rows, both ways
murmur2            which partition a key belongs to
"""
