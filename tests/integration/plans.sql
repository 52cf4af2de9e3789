-- Queries whose plans are compared with Postgres, one statement each.

SELECT o.id, c.name FROM orders o JOIN customers c ON c.id = o.customer;

SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON c.id = o.customer AND o.qty > 2;

SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON c.id = o.customer AND c.country =
'NL';

SELECT o.id FROM orders o LEFT JOIN customers c ON c.id = o.customer WHERE c.name IS NULL;

SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON c.id = o.customer WHERE o.qty > 1 AND
c.country <> 'NL';

SELECT o.id, c.id AS cid FROM customers c RIGHT JOIN orders o ON c.id = o.customer AND c.country
= 'NL' WHERE o.qty < 4;

SELECT c.id, c.name, count(o.id) AS n, sum(o.amount) AS s FROM customers c LEFT JOIN orders o ON
o.customer = c.id GROUP BY c.id;

SELECT a.id, b.id AS other FROM orders a JOIN orders b ON a.customer = b.customer AND a.qty <
b.qty;

SELECT i.order_id, i.no, c.country FROM customers c, items i, orders o WHERE o.id = i.order_id
AND c.id = o.customer AND i.price > 3;

SELECT status, count(*) AS n, count(qty) AS q, count(DISTINCT customer) AS d, avg(qty) AS a,
min(amount) AS lo, max(status) AS hi FROM orders GROUP BY status;

SELECT qty % 2 AS odd, sum(amount) AS s FROM orders GROUP BY 1 HAVING count(*) > 2;

SELECT count(*) AS n, sum(qty) AS s, avg(amount) AS a FROM orders WHERE status = 'none';

SELECT status, sum(amount) FILTER (WHERE qty > 2) AS s, count(*) FILTER (WHERE qty IS NULL) AS n
FROM orders GROUP BY status;

SELECT DISTINCT status, qty FROM orders;

SELECT DISTINCT id FROM (SELECT id FROM orders UNION ALL SELECT id FROM customers) x;

WITH big AS (SELECT * FROM orders WHERE amount > 5) SELECT a.id, c.name FROM big a JOIN
customers c ON c.id = a.customer;

SELECT o.id, x.n FROM orders o JOIN (SELECT customer, count(*) AS n FROM orders GROUP BY
customer) x USING (customer);

SELECT o.id, o.customer, c.name, p.no FROM orders o LEFT JOIN (customers c JOIN items p ON p.no
= c.id) ON c.id = o.customer AND p.order_id = o.id;

SELECT o.id, coalesce(c.name, '?') AS name, CASE WHEN o.qty > 0 THEN o.amount / o.qty END AS
each FROM orders o LEFT JOIN customers c ON c.id = o.customer;

SELECT o.id, i.no, c.id AS cid FROM orders o LEFT JOIN items i ON i.order_id = o.id LEFT JOIN
customers c ON c.id = i.no AND i.price > 2;

SELECT country, sum(total) AS t FROM totals GROUP BY country;

SELECT o.id, i.order_id, i.no FROM orders o JOIN items i ON i.price = o.amount;

SELECT max(n) AS most FROM (SELECT customer, count(*) AS n FROM orders GROUP BY customer) x;
