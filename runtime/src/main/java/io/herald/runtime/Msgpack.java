package io.herald.runtime;

import java.nio.ByteBuffer;
import java.util.Arrays;

/** A growing buffer of msgpack. Every kind of value has one fixed-width form, so that places in it can be computed. */
final class Msgpack {
    private ByteBuffer buffer;

    Msgpack(int capacity) {
        buffer = ByteBuffer.allocate(capacity);
    }

    private ByteBuffer room(int bytes) {
        if (buffer.remaining() < bytes) {
            int wanted = Math.addExact(buffer.position(), bytes);
            int doubled = (int) Math.min(2L * buffer.capacity(), Integer.MAX_VALUE - 8);
            buffer = ByteBuffer.allocate(Math.max(wanted, doubled)).put(buffer.flip());
        }
        return buffer;
    }

    Msgpack array(int size) {
        room(5).put((byte) 0xdd).putInt(size);
        return this;
    }

    Msgpack map(int size) {
        room(5).put((byte) 0xdf).putInt(size);
        return this;
    }

    Msgpack integer(int number) {
        room(5).put((byte) 0xd2).putInt(number);
        return this;
    }

    Msgpack integer(long number) {
        room(9).put((byte) 0xd3).putLong(number);
        return this;
    }

    Msgpack text(String text) {
        byte[] bytes = Utf8.bytes(text);
        room(5 + bytes.length).put((byte) 0xdb).putInt(bytes.length).put(bytes);
        return this;
    }

    /** Bytes, or nil for null. */
    Msgpack binary(byte[] bytes) {
        if (bytes == null) {
            room(1).put((byte) 0xc0);
        } else {
            room(5 + bytes.length).put((byte) 0xc6).putInt(bytes.length).put(bytes);
        }
        return this;
    }

    /** What is msgpack already. */
    Msgpack raw(Msgpack other) {
        room(other.size()).put(other.buffer.array(), 0, other.size());
        return this;
    }

    Msgpack raw(byte[] other) {
        room(other.length).put(other);
        return this;
    }

    int size() {
        return buffer.position();
    }

    byte[] toByteArray() {
        return Arrays.copyOf(buffer.array(), buffer.position());
    }
}
