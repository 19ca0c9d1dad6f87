package io.herald.runtime;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactoryBuilder;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonProcessingException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonStreamContext;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.StreamReadConstraints;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.StreamReadFeature;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.exc.StreamConstraintsException;

/**
 * The part of an event that guarding and fanning out need: tenant, recipients, source, category, campaign. The whole document is checked to be one strict
 * JSON object in UTF-8, token by token; no tree is built and nothing is written anew. The rest is Python's to judge.
 */
final class EventHead {
    static final int LARGEST_EVENT = 1024 * 1024;
    static final int LARGEST_EXPANSION = 16 * 1024 * 1024;
    private static final int DEEPEST = 100;

    private static final JsonFactory JSON = new JsonFactoryBuilder()
            .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .disable(JsonFactory.Feature.INTERN_FIELD_NAMES)    // names inside params are without bound
            .streamReadConstraints(StreamReadConstraints.builder().maxNestingDepth(DEEPEST).build())
            .build();

    private final byte[] value;
    private final List<String> users = new ArrayList<>(1);
    private final List<String> exclude = new ArrayList<>(0);
    private final List<int[]> contents = new ArrayList<>(2);    // [from, to) of what is inside the two arrays' brackets
    private String tenant = UserKey.DEFAULT_TENANT;
    private String source;
    private String category;
    private String campaign;
    private Collection<String> recipients;
    private byte[] payload;
    private Refused problem;

    private EventHead(byte[] value) {
        this.value = value;
    }

    /** Read an event; Refused says why it reaches nobody. What is no JSON is said first, then the first wrong field. */
    static EventHead read(byte[] value) throws Refused {
        EventHead head = new EventHead(value);
        head.checkBytes();
        head.parse();
        if (head.problem != null) {
            throw head.problem;
        }
        head.resolve();
        return head;
    }

    String tenant() {
        return tenant;
    }

    /** The users, in order, repeats and excluded ones left out; never empty. */
    Collection<String> recipients() {
        return recipients;
    }

    /** The event for each of them: as it came where it names one user, else with {@code users} and {@code exclude} empty. */
    byte[] payload() {
        return payload;
    }

    /** {@code source} where it is usable, else null: Python will refuse the event. */
    String source() {
        return source;
    }

    /** {@code data.category} where it is usable, else null: Python will refuse the event. */
    String category() {
        return category;
    }

    /** {@code data.campaign} where it is usable, else null. */
    String campaign() {
        return campaign;
    }

    private void checkBytes() throws Refused {
        if (value == null || value.length == 0) {
            throw new Refused("empty_value", "$", "expected a JSON object, got no bytes");
        }
        if (value.length > LARGEST_EVENT) {
            throw new Refused("event_too_large", "$", value.length + " bytes; an event has " + LARGEST_EVENT + " at most");
        }
        int invalid = Utf8.invalidByte(value);
        if (invalid >= 0) {
            throw new Refused("invalid_utf8", "$", "not UTF-8 at byte " + invalid);
        }
        // Jackson would skip a byte order mark, and take zero bytes at the start for UTF-16 or UTF-32.
        if (value.length >= 3 && value[0] == (byte) 0xef && value[1] == (byte) 0xbb && value[2] == (byte) 0xbf) {
            throw new Refused("malformed_json", "$", "a byte order mark before the document");
        }
        for (int i = 0; i < Math.min(4, value.length); i++) {
            if (value[i] == 0) {
                throw new Refused("malformed_json", "$", "a zero byte at byte " + i);
            }
        }
    }

    private void parse() throws Refused {
        boolean complete = false;
        try (JsonParser parser = JSON.createParser(value)) {
            try {
                if (parser.nextToken() != JsonToken.START_OBJECT) {
                    throw new Refused("not_an_object", "$", "expected an object, got " + word(parser.currentToken()));
                }
                event(parser);
                complete = true;
                if (parser.nextToken() != null) {
                    throw new Refused("trailing_data", "$", "more than one document");
                }
            } catch (StreamConstraintsException error) {
                throw new Refused("limit_exceeded", path(parser.getParsingContext()), error.getOriginalMessage());
            } catch (JsonProcessingException error) {
                String detail = error.getOriginalMessage().replaceFirst(" \\(start marker.*", "")
                        + " at byte " + error.getLocation().getByteOffset();
                String path = path(parser.getParsingContext());
                throw complete ? new Refused("trailing_data", "$", detail)
                        : detail.startsWith("Duplicate field") ? new Refused("duplicate_field", path, detail)
                        : new Refused("malformed_json", path, detail);
            }
        } catch (IOException | IllegalStateException error) {    // field names chosen to collide end in the latter
            throw new Refused("malformed_json", "$", String.valueOf(error.getMessage()));
        }
    }

    private void event(JsonParser parser) throws IOException {
        for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
            JsonToken token = parser.nextToken();
            switch (name) {
                case "tenant" -> {
                    if (token == JsonToken.VALUE_STRING && UserKey.isTenant(parser.getText())) {
                        tenant = parser.getText();
                    } else {
                        refuse("invalid_tenant", "$.tenant",
                                "expected a string of 1 to 64 letters, digits, `_`, `.` and `-`");
                    }
                }
                case "source" -> source = usable(parser);
                case "data" -> {
                    if (isObject(parser, "$.data")) {
                        data(parser);
                    }
                }
                default -> { }
            }
            parser.skipChildren();
        }
    }

    private void data(JsonParser parser) throws IOException {
        for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
            parser.nextToken();
            switch (name) {
                case "recipients" -> {
                    if (isObject(parser, "$.data.recipients")) {
                        recipients(parser);
                    }
                }
                case "category" -> category = usable(parser);
                case "campaign" -> campaign = usable(parser);
                default -> { }
            }
            parser.skipChildren();
        }
    }

    /** A string of the length of an identifier, else null. */
    private static String usable(JsonParser parser) throws IOException {
        return parser.currentToken() == JsonToken.VALUE_STRING && UserKey.problemOfId(parser.getText()) == null
                ? parser.getText() : null;
    }

    private void recipients(JsonParser parser) throws IOException {
        for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
            parser.nextToken();
            switch (name) {
                case "users" -> ids(parser, "$.data.recipients.users", users);
                case "exclude" -> ids(parser, "$.data.recipients.exclude", exclude);
                case "topics" -> topics(parser, "$.data.recipients.topics");
                default -> parser.skipChildren();
            }
        }
    }

    private void ids(JsonParser parser, String path, List<String> ids) throws IOException {
        if (!isArray(parser, path)) {
            return;
        }
        int from = (int) parser.currentLocation().getByteOffset();
        for (int index = 0; parser.nextToken() != JsonToken.END_ARRAY; index++) {
            boolean text = parser.currentToken() == JsonToken.VALUE_STRING;
            String wrong = text ? UserKey.problemOfId(parser.getText())
                    : "expected a string, got " + word(parser.currentToken());
            if (wrong == null) {
                ids.add(parser.getText());
            } else {
                refuse("invalid_recipients", path + "[" + index + "]", wrong);
                parser.skipChildren();
            }
        }
        contents.add(new int[] {from, (int) parser.currentLocation().getByteOffset() - 1});
    }

    private void topics(JsonParser parser, String path) throws IOException {
        if (!isArray(parser, path)) {
            return;
        }
        while (parser.nextToken() != JsonToken.END_ARRAY) {
            refuse("recipients_topics_unsupported", path, "audiences are not supported; name the users");
            parser.skipChildren();
        }
    }

    private boolean isObject(JsonParser parser, String path) {
        if (parser.currentToken() != JsonToken.START_OBJECT) {
            refuse("invalid_recipients", path, "expected an object, got " + word(parser.currentToken()));
            return false;
        }
        return true;
    }

    private boolean isArray(JsonParser parser, String path) throws IOException {
        if (parser.currentToken() != JsonToken.START_ARRAY) {
            refuse("invalid_recipients", path, "expected an array, got " + word(parser.currentToken()));
            parser.skipChildren();
            return false;
        }
        return true;
    }

    private void refuse(String reason, String path, String detail) {
        if (problem == null) {
            problem = new Refused(reason, path, detail);
        }
    }

    private void resolve() throws Refused {
        if (users.size() == 1 && exclude.isEmpty()) {
            recipients = users;
            payload = value;
            return;
        }
        Set<String> distinct = new LinkedHashSet<>(users);
        exclude.forEach(distinct::remove);
        if (distinct.isEmpty()) {
            throw new Refused("no_recipients", "$.data.recipients",
                    users.isEmpty() ? "`users` is missing or empty" : "every user is excluded");
        }
        recipients = distinct;
        payload = withoutContents();
        if ((long) distinct.size() * payload.length > LARGEST_EXPANSION) {
            throw new Refused("event_too_large", "$.data.recipients", distinct.size() + " recipients of " + payload.length
                    + " bytes are more than " + LARGEST_EXPANSION + " bytes; send several events, or a shorter one");
        }
    }

    private byte[] withoutContents() {
        int size = value.length;
        for (int[] range : contents) {
            size -= range[1] - range[0];
        }
        byte[] rest = new byte[size];
        int read = 0;
        int written = 0;
        for (int[] range : contents) {
            System.arraycopy(value, read, rest, written, range[0] - read);
            written += range[0] - read;
            read = range[1];
        }
        System.arraycopy(value, read, rest, written, value.length - read);
        return rest;
    }

    private static String word(JsonToken token) {
        if (token == null) {
            return "nothing";
        }
        return switch (token) {
            case START_OBJECT -> "an object";
            case START_ARRAY -> "an array";
            case VALUE_STRING -> "a string";
            case VALUE_NUMBER_INT, VALUE_NUMBER_FLOAT -> "a number";
            case VALUE_NULL -> "null";
            default -> "a boolean";
        };
    }

    /** Where the parser stands, as Python writes it: {@code $.data.tags[2]}. */
    private static String path(JsonStreamContext context) {
        StringBuilder path = new StringBuilder();
        for (; context != null && !context.inRoot(); context = context.getParent()) {
            if (context.inArray()) {
                path.insert(0, "[" + Math.max(0, context.getCurrentIndex()) + "]");
            } else if (context.getCurrentName() != null) {
                path.insert(0, "." + context.getCurrentName());
            }
        }
        return path.insert(0, "$").toString();
    }
}
