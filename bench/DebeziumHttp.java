import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.IOException;
import java.io.Reader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Properties;

/**
 * Debezium's embedded engine with each change POSTed as JSON to a URL: what `bench.debezium` compares
 * the product with. It sends as the HTTP sink of Debezium Server does: with the JDK's client, one
 * request after another, five tries a second apart; a batch is acknowledged when all of it was sent.
 *
 * <p>`java -cp 'libs/*' DebeziumHttp.java PROPERTIES URL`
 */
public final class DebeziumHttp {

    private static final int TRIES = 5;
    private static final Duration TIMEOUT = Duration.ofSeconds(60);
    private static final long PAUSE_MS = 1_000;

    private DebeziumHttp() {}

    public static void main(String[] arguments) throws IOException {
        Properties properties = new Properties();
        try (Reader reader = Files.newBufferedReader(Path.of(arguments[0]))) {
            properties.load(reader);
        }
        HttpClient client = HttpClient.newHttpClient();
        URI url = URI.create(arguments[1]);
        DebeziumEngine<ChangeEvent<String, String>> engine =
                DebeziumEngine.create(Json.class)
                        .using(properties)
                        .notifying((records, committer) -> deliver(client, url, records, committer))
                        .using((success, message, error) -> {
                            System.err.println(message);
                            System.exit(success ? 0 : 1);
                        })
                        .build();
        engine.run();
    }

    private static void deliver(
            HttpClient client,
            URI url,
            List<ChangeEvent<String, String>> records,
            DebeziumEngine.RecordCommitter<ChangeEvent<String, String>> committer)
            throws InterruptedException {
        for (ChangeEvent<String, String> record : records) {
            if (record.value() != null) {
                send(client, url, record.value());
            }
            committer.markProcessed(record);
        }
        committer.markBatchFinished();
    }

    private static void send(HttpClient client, URI url, String body) throws InterruptedException {
        HttpRequest request =
                HttpRequest.newBuilder(url)
                        .timeout(TIMEOUT)
                        .setHeader("content-type", "application/json")
                        .POST(HttpRequest.BodyPublishers.ofString(body))
                        .build();
        for (int attempt = 0; attempt < TRIES; attempt++) {
            try {
                if (client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode() / 100 == 2) {
                    return;
                }
            } catch (IOException error) {
                System.err.println(error.getMessage());
            }
            Thread.sleep(PAUSE_MS);
        }
        throw new IllegalStateException("an event could not be sent");
    }
}
