-- An invented shop: 330,000 rows. Every order's amount is the sum of its items, always, because
-- each transaction of the workload keeps it so; the demo's reader relies on that.
CREATE TABLE customers (
  id       bigint PRIMARY KEY,
  name     text NOT NULL,
  email    text NOT NULL,
  country  text NOT NULL,
  since    date NOT NULL
);
CREATE TABLE products (
  id       bigint PRIMARY KEY,
  name     text NOT NULL,
  price    numeric(10,2) NOT NULL
);
CREATE TABLE orders (
  id          bigint PRIMARY KEY,
  customer_id bigint NOT NULL,
  status      text NOT NULL,
  amount      numeric(12,2) NOT NULL,
  placed_at   timestamptz NOT NULL,
  note        text
);
CREATE TABLE order_items (
  order_id    bigint NOT NULL,
  line        int NOT NULL,
  product_id  bigint NOT NULL,
  quantity    int NOT NULL,
  price       numeric(10,2) NOT NULL,
  PRIMARY KEY (order_id, line)
);

INSERT INTO customers
SELECT g, 'Customer ' || g, 'customer' || g || '@mail.example.com',
       (ARRAY['AT','CH','DE','ES','FR','IT','NL','PL','SE','UK'])[1 + g * 7919 % 10],
       date '2015-01-01' + (g * 31 % 4000)::int
FROM generate_series(1, 20000) g;

INSERT INTO products
SELECT g, 'Product ' || g, (100 + g * 7919 % 20000) / 100.0 FROM generate_series(1, 2000) g;

INSERT INTO order_items
SELECT o, l, 1 + (o * 31 + l * 17) % 2000, 1 + (o + l) % 4, p.price
FROM generate_series(1, 88000) o, generate_series(1, 1 + o % 4) l
JOIN products p ON true WHERE p.id = 1 + (o * 31 + l * 17) % 2000;

INSERT INTO orders
SELECT o, 1 + o * 7919 % 20000, (ARRAY['new','paid','shipped','done'])[1 + o % 4],
       sum(i.quantity * i.price), timestamptz '2026-01-01 00:00:00+00' + o * interval '5 minutes',
       CASE WHEN o % 10 = 0 THEN 'leave at the door' END
FROM generate_series(1, 88000) o JOIN order_items i ON i.order_id = o GROUP BY o;

ANALYZE;
