// Java's own HTTP client. Arguments: address and file; prints status and answer of each request, a line each.
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;

public class Client {
  private static final HttpClient CLIENT = HttpClient.newHttpClient();

  public static void main(String[] arguments) throws Exception {
    String url = arguments[0];
    byte[] bytes = Files.readAllBytes(Path.of(arguments[1]));
    byte[] json = ("{\"image\": \"" + Base64.getEncoder().encodeToString(bytes) + "\"}").getBytes();
    String form = "multipart/form-data; boundary=line";
    send(url + "/v1/predict", form, form("image", bytes));
    send(url + "/v1/predict", "image/png", bytes);
    send(url + "/v1/predict", "application/json", json);
    send(url + "/v1/predict/batch", form, form("images", bytes, bytes));
    send(url + "/v1/predict", form, form("image", "no image".getBytes()));
  }

  private static byte[] form(String field, byte[]... files) throws Exception {
    ByteArrayOutputStream body = new ByteArrayOutputStream();
    for (byte[] file : files) {
      String head = "--line\r\nContent-Disposition: form-data; name=\"" + field + "\"; filename=\"cat.png\"\r\n\r\n";
      body.write(head.getBytes());
      body.write(file);
      body.write("\r\n".getBytes());
    }
    body.write("--line--\r\n".getBytes());
    return body.toByteArray();
  }

  private static void send(String url, String type, byte[] body) throws Exception {
    HttpRequest request =
        HttpRequest.newBuilder(URI.create(url))
            .header("Content-Type", type)
            .POST(HttpRequest.BodyPublishers.ofByteArray(body))
            .build();
    var answer = CLIENT.send(request, BodyHandlers.ofString());
    System.out.println("[" + answer.statusCode() + ", " + answer.body().strip() + "]");
  }
}
