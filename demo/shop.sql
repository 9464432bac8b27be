-- The demo's source: a small shop. Run again it changes nothing.
CREATE SCHEMA IF NOT EXISTS billing;

CREATE TABLE IF NOT EXISTS users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE,
    name text NOT NULL,
    plan text NOT NULL DEFAULT 'free',
    interests text[] NOT NULL DEFAULT '{}',
    preferences jsonb NOT NULL DEFAULT '{}',
    signed_up_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS products (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku text NOT NULL UNIQUE,
    title text NOT NULL,
    price numeric(10, 2) NOT NULL,
    stock integer NOT NULL CHECK (stock >= 0)
);

CREATE TABLE IF NOT EXISTS orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    product_id bigint NOT NULL REFERENCES products,
    quantity integer NOT NULL CHECK (quantity > 0),
    total numeric(12, 2) NOT NULL,
    status text NOT NULL DEFAULT 'placed',
    placed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS orders_of_user ON orders (user_id);

CREATE TABLE IF NOT EXISTS billing.invoices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id bigint NOT NULL REFERENCES public.orders ON DELETE CASCADE,
    amount numeric(12, 2) NOT NULL,
    due_on date NOT NULL,
    paid_at timestamptz
);
CREATE INDEX IF NOT EXISTS invoices_of_order ON billing.invoices (order_id);

-- So that a deleted order's event carries the whole row it had.
ALTER TABLE orders REPLICA IDENTITY FULL;

INSERT INTO products (sku, title, price, stock) VALUES
    ('TEA-100', 'Assam, 100 g', 6.40, 120),
    ('TEA-250', 'Sencha, 250 g', 18.90, 80),
    ('CUP-001', 'Cup, stoneware', 14.00, 45),
    ('POT-001', 'Teapot, cast iron', 64.50, 12),
    ('TIN-002', 'Tin for 250 g', 9.95, 60),
    ('SIE-001', 'Sieve, steel', 7.25, 90),
    ('KET-001', 'Kettle with thermometer', 79.00, 18),
    ('HON-500', 'Heather honey, 500 g', 11.80, 34)
ON CONFLICT (sku) DO NOTHING;
