import java.nio.charset.StandardCharsets;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Sends every line of standard input as the key of a record: java -cp JARS Produce.java BOOTSTRAP TOPIC. */
final class Produce {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("acks", "all");
        byte[] value = "java".getBytes(StandardCharsets.UTF_8);
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            String keys = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
            for (String key : keys.lines().toList()) {
                producer.send(new ProducerRecord<>(arguments[1], key.getBytes(StandardCharsets.UTF_8), value));
            }
        }
    }
}
