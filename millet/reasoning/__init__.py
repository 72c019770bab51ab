"""What a reasoning reply is: messages in, a thought and an answer out."""
