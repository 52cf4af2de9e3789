import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/**
 * Flink SQL on a cluster within this process: one statement a line on stdin, as JSON text. For each
 * it prints a SELECT's changes as JSON arrays (kind, then every value as text, bytes as hex, or null), then "done"
 * once the statement's job has ended, or "error" and a JSON text.
 */
public class FlinkSql {
    private static final Pattern SETTING = Pattern.compile("SET '([^']+)' *= *'([^']*)'");

    public static void main(String[] arguments) throws Exception {
        PrintStream out = System.out;
        System.setOut(System.err);
        Configuration configuration = new Configuration();
        for (String setting : arguments) {
            String[] parts = setting.split("=", 2);
            configuration.setString(parts[0], parts[1]);
        }
        TableEnvironment tables =
                TableEnvironment.create(
                        EnvironmentSettings.newInstance()
                                .inStreamingMode()
                                .withConfiguration(configuration)
                                .build());
        ObjectMapper json = new ObjectMapper();
        BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        out.println("ready");
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            try {
                run(tables, json.readValue(line, String.class), json, out);
                out.println("done");
            } catch (Throwable error) {
                error.printStackTrace();
                Throwable cause = error;
                while (cause.getCause() != null) {
                    cause = cause.getCause();
                }
                out.println("error " + json.writeValueAsString(error + "\n" + cause));
            }
            out.flush();
        }
        System.exit(0);
    }

    private static String text(Object value) {
        if (value == null) {
            return null;
        }
        return value instanceof byte[] ? HexFormat.of().formatHex((byte[]) value) : value.toString();
    }

    private static void run(
            TableEnvironment tables, String statement, ObjectMapper json, PrintStream out)
            throws Exception {
        Matcher setting = SETTING.matcher(statement.strip());
        if (setting.matches()) {
            tables.getConfig().set(setting.group(1), setting.group(2));
            return;
        }
        TableResult result = tables.executeSql(statement);
        if (!statement.stripLeading().toUpperCase().startsWith("SELECT")) {
            result.await();
            return;
        }
        try (CloseableIterator<Row> rows = result.collect()) {
            while (rows.hasNext()) {
                Row row = rows.next();
                List<String> values = new ArrayList<>();
                values.add(row.getKind().shortString());
                for (int i = 0; i < row.getArity(); i++) {
                    Object value = row.getField(i);
                    values.add(text(value));
                }
                out.println(json.writeValueAsString(values));
            }
        }
    }
}
