package io.herald.runtime;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CoderResult;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;

/** Strict UTF-8: no overlong forms, no encoded surrogates, nothing replaced. */
final class Utf8 {
    private static final VarHandle EIGHT = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.nativeOrder());
    private static final long NOT_ASCII = 0x8080808080808080L;

    private Utf8() {}

    /** The position of the first byte that is not UTF-8, or -1. */
    static int invalidByte(byte[] bytes) {
        int ascii = 0;
        while (ascii + 8 <= bytes.length && ((long) EIGHT.get(bytes, ascii) & NOT_ASCII) == 0) {
            ascii += 8;
        }
        while (ascii < bytes.length && bytes[ascii] >= 0) {
            ascii++;
        }
        if (ascii == bytes.length) {
            return -1;
        }
        CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder()
                .onMalformedInput(CodingErrorAction.REPORT).onUnmappableCharacter(CodingErrorAction.REPORT);
        ByteBuffer in = ByteBuffer.wrap(bytes, ascii, bytes.length - ascii);
        CharBuffer scratch = CharBuffer.allocate(Math.min(1024, in.remaining()) + 1);
        CoderResult result;
        do {
            result = decoder.decode(in, scratch.clear(), true);
        } while (result.isOverflow());
        return result.isError() ? in.position() : -1;
    }

    /** The text, or null where the bytes are not UTF-8. */
    static String textOrNull(byte[] bytes) {
        return invalidByte(bytes) < 0 ? new String(bytes, StandardCharsets.UTF_8) : null;
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
