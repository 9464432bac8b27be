"""From an installation that nobody has signed in to yet to the first delivered event, with the
keyboard alone, in the running product.
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
        page.wait_for_url("**/projects/")
        _press(page, "Create a project")
        page.wait_for_url("**/projects/add/")
        _fill(page, "Project name", "shop")
        page.keyboard.press("Enter")
        page.wait_for_url("**/projects/shop/")

        _press(page, "Add a database")
        page.wait_for_url("**/databases/add/")
        _fill(page, "Connection string", source_database)
        _press(page, "Test connection")
        expect(page.locator("#findings")).to_contain_text("wal_level")
        _press(page, "Save")
        page.wait_for_url("**/databases/")

        _press(page, "Settings")
        page.wait_for_url("**/settings/")
        _press(page, "Enable eventing module", "Space")
        _press(page, "Save")
        page.get_by_text("Settings saved").wait_for()

        _press(page, "Event Triggers")
        page.wait_for_url("**/triggers/")
        _press(page, "Add")
        page.wait_for_url("**/triggers/add/")
        _fill(page, "Trigger Name", "welcome-email")
        _fill(page, "Collection / Table name(s)", "users")
        for operation in ("Insert", "Update", "Delete"):
            _press(page, operation, "Space")
        _fill(page, "Webhook URL", receiver.url("/hook"))
        _press(page, "Add")
        page.wait_for_url("**/triggers/welcome-email/")
        expect(page.locator(".facts .status-ok")).to_have_text("yes", timeout=30_000)
        expect(page.get_by_text("Waiting for the first event…")).to_be_visible()

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
        expect(page.get_by_text("Waiting for the first event…")).to_have_count(0, timeout=15_000)
        expect(page.locator("#announcer")).to_have_text("The first event is here.")
        _press(page, "Event Logs")
        page.wait_for_url("**/events/")
        expect(page.locator(".event-row .status-delivered")).to_have_count(3, timeout=15_000)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        expect(page.locator(".detail:not([hidden])")).to_contain_text("DB_DELETE")
