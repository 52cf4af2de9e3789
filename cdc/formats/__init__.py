"""Change batches as Kafka records in Debezium's formats, and back. Bytes only: no broker here.

debezium_schema   which Connect type each column has, and the envelope around the rows
connect_schema    Connect's schemas: as Avro, as Connect's own JSON
connect_values    values of our columns as Connect's, and back
envelope          a change batch as columns of Connect values, and back
avro_write, avro_read, json_envelope
murmur2           which partition a key belongs to
"""
