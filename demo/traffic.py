"""The shop's customers and clerks: transactions that change a few rows a second, for as long as
the demo runs. Old orders are deleted, so the database stays small however long that is.
"""

import json
import os
import random
import time
from collections.abc import Callable
from typing import Final

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812 — it is a class

_PAUSE_SECONDS: Final = (0.1, 0.5)
_ORDERS_KEPT: Final = 300

_FIRST_NAMES: Final = (
    "Ada",
    "Björn",
    "Chidi",
    "Dolores",
    "Emre",
    "Fatima",
    "Grace",
    "Haruki",
    "Inès",
)
_LAST_NAMES: Final = (
    "Achebe",
    "Brontë",
    "Çelik",
    "Dąbrowska",
    "Eriksen",
    "Fernández",
    "Gupta",
    "Ito",
)
_INTERESTS: Final = ["green tea", "black tea", "oolong", "ceramics", "honey", "gifts"]
_NEXT_STATUS: Final = {"placed": "packed", "packed": "shipped", "shipped": "delivered"}

chance = random.Random()  # noqa: S311 — no secret


def sign_up(cursor: Cursor) -> None:
    first, last = chance.choice(_FIRST_NAMES), chance.choice(_LAST_NAMES)
    email = f"{first}.{last}.{chance.randrange(10**6)}@example.com".lower()
    preferences = {"newsletter": chance.random() < 0.4, "language": chance.choice(["en", "de"])}
    cursor.execute(
        "INSERT INTO users (email, name, interests, preferences) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (email) DO NOTHING",
        (email, f"{first} {last}", chance.sample(_INTERESTS, 2), json.dumps(preferences)),
    )


def place_order(cursor: Cursor) -> None:
    """An order, its invoice and the stock it takes, in one transaction."""
    cursor.execute(
        """
        WITH taken AS (
            UPDATE products SET stock = stock - 1
            WHERE id = (SELECT id FROM products WHERE stock > 0 ORDER BY random() LIMIT 1)
            RETURNING id, price
        ), placed AS (
            INSERT INTO orders (user_id, product_id, quantity, total)
            SELECT (SELECT id FROM users ORDER BY random() LIMIT 1), taken.id, 1, taken.price
            FROM taken WHERE EXISTS (SELECT 1 FROM users)
            RETURNING id, total
        )
        INSERT INTO billing.invoices (order_id, amount, due_on)
        SELECT id, total, current_date + 14 FROM placed
        """
    )


def advance_order(cursor: Cursor) -> None:
    cursor.execute(
        "SELECT id, status FROM orders WHERE status = ANY(%s) ORDER BY random() LIMIT 1",
        (list(_NEXT_STATUS),),
    )
    if order := cursor.fetchone():
        cursor.execute(
            "UPDATE orders SET status = %s WHERE id = %s", (_NEXT_STATUS[order[1]], order[0])
        )


def pay_invoice(cursor: Cursor) -> None:
    cursor.execute(
        "UPDATE billing.invoices SET paid_at = now() WHERE id ="
        " (SELECT id FROM billing.invoices WHERE paid_at IS NULL ORDER BY random() LIMIT 1)"
    )


def restock(cursor: Cursor) -> None:
    """Several rows in one transaction."""
    cursor.execute("UPDATE products SET stock = stock + 25 WHERE stock < 15")


def change_price(cursor: Cursor) -> None:
    cursor.execute(
        "UPDATE products SET price = greatest(1, round(price * %s, 2)) WHERE id ="
        " (SELECT id FROM products ORDER BY random() LIMIT 1)",
        (chance.choice(["0.95", "1.05"]),),
    )


def upgrade_plan(cursor: Cursor) -> None:
    cursor.execute(
        "UPDATE users SET plan = 'club' WHERE id ="
        " (SELECT id FROM users WHERE plan = 'free' ORDER BY random() LIMIT 1)"
    )


def close_account(cursor: Cursor) -> None:
    """Takes the user's orders and their invoices along."""
    cursor.execute(
        "DELETE FROM users WHERE id = (SELECT id FROM users ORDER BY random() LIMIT 1)"
        " AND (SELECT count(*) FROM users) > 10"
    )


def archive_orders(cursor: Cursor) -> None:
    cursor.execute(
        "DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY id DESC OFFSET %s)",
        (_ORDERS_KEPT,),
    )


def change_of_mind(cursor: Cursor) -> None:
    """An order that is rolled back: nobody is told of it."""
    place_order(cursor)
    cursor.connection.rollback()


ACTIONS: dict[Callable[[Cursor], None], int] = {
    sign_up: 20,
    place_order: 30,
    advance_order: 30,
    pay_invoice: 15,
    change_price: 6,
    upgrade_plan: 6,
    restock: 3,
    close_account: 3,
    archive_orders: 2,
    change_of_mind: 2,
}


def main() -> None:
    connection = psycopg2.connect(os.environ["SHOP_DB_URL"])
    while True:
        [action] = chance.choices(list(ACTIONS), weights=list(ACTIONS.values()))
        with connection, connection.cursor() as cursor:
            action(cursor)
        time.sleep(chance.uniform(*_PAUSE_SECONDS))


if __name__ == "__main__":
    main()
