"""From an installation that nobody has signed in to yet to the first delivered event, with the
keyboard alone, in the running product; and on, under another name.
"""

from playwright.sync_api import Page, expect

from tests.receiver import Receiver
from tests.servers import execute
from tests.stack import Stack

PASSWORD = "correct-horse-battery"


def _tab_to(page: Page, label: str) -> None:
    """Press Tab until what has the focus is called `label`."""
    name = """() => {
        const at = document.activeElement;
        const label = at.labels?.[0]?.innerText || at.ariaLabel || at.innerText || "";
        return label.trim().replace(/\\s+/g, " ");
    }"""
    for _ in range(60):
        if str(page.evaluate(name)).startswith(label):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no way to {label!r} by Tab on {page.url}")


def _fill(page: Page, label: str, text: str) -> None:
    _tab_to(page, label)
    page.keyboard.type(text)


def _press(page: Page, label: str, key: str = "Enter") -> None:
    _tab_to(page, label)
    page.keyboard.press(key)


def test_the_first_event_is_reached_with_the_keyboard_alone(
    stack: Stack, page: Page, source_database: str
) -> None:
    execute(source_database, "CREATE TABLE users (id bigint PRIMARY KEY, email text)")
    with Receiver() as receiver:
        page.goto(stack.url)
        _fill(page, "Username", "ada")
        _fill(page, "Password", PASSWORD)
        _fill(page, "Password again", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url("**/projects/add/")
        _fill(page, "Project name", "Corner shop")
        expect(page.get_by_label("Id", exact=True)).to_have_value("corner-shop")
        page.keyboard.press("Enter")

        page.wait_for_url("**/projects/corner-shop/begin/database/")
        _fill(page, "Connection string", source_database)
        _press(page, "Test connection")
        expect(page.locator("#findings")).to_contain_text("wal_level")
        _press(page, "Connect and go on")

        page.wait_for_url("**/begin/trigger/")
        _fill(page, "Trigger Name", "welcome-email")
        _fill(page, "Collection / Table name(s)", "users")
        for operation in ("Insert", "Update", "Delete"):
            _press(page, operation, "Space")
        _fill(page, "Webhook URL", receiver.url("/hook"))
        _press(page, "Add")
        page.wait_for_url("**/begin/event/")
        waiting = page.get_by_role("heading", name="Waiting for the first event…")
        expect(waiting).to_be_visible(timeout=30_000)

        changes = {
            "DB_INSERT": "INSERT INTO users VALUES (1, 'a@example.com')",
            "DB_UPDATE": "UPDATE users SET email = 'b@example.com'",
            "DB_DELETE": "DELETE FROM users",
        }
        documents = {
            "DB_INSERT": {"id": 1, "email": "a@example.com"},
            "DB_UPDATE": {"id": 1, "email": "b@example.com"},
            "DB_DELETE": {"id": 1},
        }
        node_id = stack.execute("SELECT node_id::text FROM eventing_installation")[0][0]
        for number, (kind, statement) in enumerate(changes.items(), start=1):
            execute(source_database, statement)
            if number == 1:
                came = page.get_by_role("heading", name="Events come in")
                expect(came).to_be_visible(timeout=15_000)
                expect(page.locator(".payload").first).to_contain_text("a@example.com")
                expect(page.locator("#announcer")).to_have_text("The first event is here.")
            request = receiver.wait_for(number, "/hook", timeout=20)[-1]
            payload = request.json()
            assert payload == {
                "specversion": "1.0-rc1",
                "id": request.id,
                "type": kind,
                "source": node_id,
                "time": payload["time"],
                "data": {
                    "db": "sql-postgres",
                    "col": "users",
                    "docId": "1",
                    "doc": documents[kind],
                },
            }
        _press(page, "Event Logs")
        page.wait_for_url("**/events/")
        expect(page.locator(".event-row .status-delivered")).to_have_count(3, timeout=15_000)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        expect(page.locator(".detail:not([hidden])")).to_contain_text("DB_DELETE")

        slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
        captured_as = execute(source_database, slots)
        _press(page, "Settings")
        page.wait_for_url("**/settings/")
        _fill(page, "Project name", "Corner shop & sons")
        page.keyboard.press("Enter")
        page.get_by_text("The project is called Corner shop & sons now.").wait_for()
        execute(source_database, "INSERT INTO users VALUES (2, 'c@example.com')")
        assert receiver.wait_for(4, "/hook", timeout=20)[-1].json()["data"]["docId"] == "2"
        assert execute(source_database, slots) == captured_as
        _press(page, "Event Logs")
        page.wait_for_url("**/events/")
        expect(page.locator(".event-row .status-delivered")).to_have_count(4, timeout=15_000)
